"""Who may read what: principals, grants, and the tokens that carry them."""
