"""How the committed assets were made: nothing of the product imports these modules, and no stage depends on them."""
