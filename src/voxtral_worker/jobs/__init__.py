"""RunPod's floor: job input becomes requests, tokens become output."""
