"""Jobs and workers as RQ keeps them: claiming, finishing, leases, registration, lost jobs, images that are kept.

Also the scripts that run on the server, and what watches over its keys, its clock and how it saves its data.
"""
