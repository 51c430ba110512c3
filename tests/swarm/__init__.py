"""The Swarm stack on a real Docker Engine, audited through its edge."""
