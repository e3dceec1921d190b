"""Studies: schedules x budgets x seeds, expanded into runs, trained side by side, each run once."""
