"""What a run will take, before it is started: denoiser evaluations, FLOPs, time, memory, bytes."""
