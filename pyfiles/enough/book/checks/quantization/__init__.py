"""The checks of the exercises of Part IV."""
