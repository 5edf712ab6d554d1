"""What the keys of a stage's `config`, of ScaleUp's `build_config` and of a pipeline's `metadata` mean: variables, and `otto.*` options;
and which repositories can be checked out.

Pure functions over strings, so that the executor (for stages) and the scaler (for plain ScaleUps) can't read the same key differently.
Imports the standard library only; knows no message and no service.
"""
