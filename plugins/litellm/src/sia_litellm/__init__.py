"""Language models of every provider, and of servers of one's own, through litellm."""
