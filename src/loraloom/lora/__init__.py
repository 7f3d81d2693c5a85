"""Load adapters on a model; read and write their files; convert them for other programs. The only importer of peft."""
