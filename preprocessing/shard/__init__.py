"""From a list of sources to stored shards: plan, stages, build."""
