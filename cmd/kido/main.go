// Command kido controls the order in which services start across machines; see
// internal/cli.
package main

import (
	"os"

	"kido/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
