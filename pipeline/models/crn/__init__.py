"""CRN: two ConvLSTM branches that feed each other."""
