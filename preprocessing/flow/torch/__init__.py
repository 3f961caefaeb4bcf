"""TV-L1 on the GPU: torch, and Triton where there is one."""
