"""What is stored: the grammar of samples, shards (tar, index, record) and the manifest."""
