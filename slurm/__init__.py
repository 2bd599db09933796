"""Any verb as a job on SLURM, through submitit: it knows how to run a verb and nothing of what verbs do."""
