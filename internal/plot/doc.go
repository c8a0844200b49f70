// Package plot draws curves and bars as SVG and PNG files, in one look for all that the program draws.
//
//	c := plot.Chart{Title: "cifar-resnet20", X: "step", Y: "error, %"}
//	c.Lines = append(c.Lines, plot.Line{Label: "test", X: steps, Y: errors, Bold: true})
//	err := c.Write(vfs.OS{}, filepath.Join(dir, "training")) // training.svg and training.png
package plot
