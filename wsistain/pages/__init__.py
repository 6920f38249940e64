"""Pages for people: templates, pictures and plots of self-contained HTML files, which ask nothing of any network."""
