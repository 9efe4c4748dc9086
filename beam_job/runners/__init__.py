"""Where the job runs: options of Beam runners, Dataflow, cost estimates and checks before a run."""
