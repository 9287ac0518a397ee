"""One HTML page about one run, from its KPI log alone."""
