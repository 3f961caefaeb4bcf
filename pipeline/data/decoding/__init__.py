"""From bytes to clips: FFmpeg with compiled loops, DALI, and the reference that both are held against."""
