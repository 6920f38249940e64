"""From slide to stained slide: plan, generate, blend, write."""
