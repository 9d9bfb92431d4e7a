"""What benchmark.py and gpu_check.py measure, each job in a process of its own. No command lies here."""
