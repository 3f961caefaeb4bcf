"""From storage to checked bytes: ranged GETs in flight, the cache on disk, damage."""
