"""Optical flow (TV-L1): OpenCV's as the reference, the same algorithm of our own for the CPU (numba) and the GPU
(torch, Triton).
"""
