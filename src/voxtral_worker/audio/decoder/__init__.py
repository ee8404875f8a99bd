"""Files of strangers become samples, in processes that can do nothing else."""
