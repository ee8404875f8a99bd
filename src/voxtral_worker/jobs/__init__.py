"""RunPod's jobs: turns a job's input into requests, and the answers into its output."""
