//! Which backend a Terraform directory uses, and with which endpoint, region and credentials Terraform talks to it.
