"""What ``nox -s bench`` runs: each module is one benchmark."""
