"""MRST-Net: mutually reinforced spatio-temporal units."""
