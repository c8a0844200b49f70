// Package deploy holds no code: its folders are what an operator copies, and its tests hold them against one another, against the
// program's flags and, as processes of this machine, against a training run. docs/deploy.md is the guide.
package deploy

//go:generate go run -C kubernetes/_gen . ../schemas
