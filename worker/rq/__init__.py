"""Jobs and workers as RQ keeps them: leases, registration, lost jobs, and the scripts that run on the server."""
