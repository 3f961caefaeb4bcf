"""CRN (Sun et al.): two ConvLSTM branches, coupled through each other's hidden states."""
