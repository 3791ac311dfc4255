"""Published models: what is known of one before it is downloaded, where its files lie, whether they are whole."""
