"""Video files: decoding with true clocks, encoding as stored."""
