"""Its presence lets the tests of the folders below import what stands in this one."""
