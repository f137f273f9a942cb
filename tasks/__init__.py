"""One module per stage of dvc.yaml: it reads declared inputs, calls the library, writes declared outputs."""
