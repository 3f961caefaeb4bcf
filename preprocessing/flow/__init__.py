"""Optical flow (TV-L1): OpenCV's as the reference, and our own code of the same algorithm for the CPU (numba) and the
GPU (torch, Triton).
"""
