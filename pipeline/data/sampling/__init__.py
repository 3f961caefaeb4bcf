"""Which sample comes when, and which frames and pixels of it: pure functions of seed, epoch and key."""
