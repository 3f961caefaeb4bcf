"""TV-L1 engines of our own: the algorithm of OpenCV's DualTVL1, on the CPU (numba) and on the GPU (torch and Triton)."""
