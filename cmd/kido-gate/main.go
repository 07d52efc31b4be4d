// Command kido-gate is all that a kido key can run at a host; see internal/gate.
package main

import (
	"os"

	"kido/internal/gate"
)

func main() { os.Exit(gate.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
