"""What every package may use and no package owns: command lines, atomic files, timers, a thread that reads ahead."""
