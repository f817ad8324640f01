"""Jobs as RQ keeps them: leases, registration, what a crash leaves, and the scripts that run on the server."""
