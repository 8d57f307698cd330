"""Recipes: which method and specs each linear of a model gets."""

from qlab.recipes.rules import LayerPlan, Recipe, Resolution, Rule, road

__all__ = ["LayerPlan", "Recipe", "Resolution", "Rule", "road"]
