"""Recipes that pretrain the nano models of the sticker world, each one command (`ppd pretrain NAME`)."""
