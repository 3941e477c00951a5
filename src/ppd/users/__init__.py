"""People of the log as models read them: their support pairs, their embeddings, and the whitening between the two."""
