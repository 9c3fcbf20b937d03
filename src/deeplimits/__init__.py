"""Deep residual networks at the limit: a small library behind the book of that name.

Ground      checks        what the public functions ask of their arguments
            verdict       the one place that decides: confirmed, agrees or fails
Floor 0     runtime       device, dtype, preset and seed of an experiment; the only module that seeds
            activations   scalar non-linearities with derivatives and Gaussian moments
            statistics    estimates with intervals; diverged runs are counted, never averaged
            data          digits, MNIST and CIFAR-10, split into train, validation and test; random regression data
            fused         a step of training as compiled loops, for the CPU
            tables        records of claims as they are shown
Floor 1     weights       laws of the weights over depth
            resnet        the residual recursion of four block families: forward, tangent, adjoint, exact law
            diffusion     exact-in-law networks of one matrix a block, and the SDE they become
            laws          closed-form laws of that SDE at width one
            growth        constants of the growth of the norm
            direction     that growth at widths 2 to 4 without random numbers: an equation on the sphere
            wide          wide networks of finite depth: variance and mean of the log-norm to order 1/n
            theory        what the theorems predict, each with its equation number
            claims        prediction against measurement: verdicts and the ledger of a chapter
            plotting      one style for every figure
            cluster       cells computed by the workers of a Dask cluster, each compared with this process before
            blocks        residual blocks of any torch module: found, and watched while a batch passes
            graphs        a step of many small kernels as one launch, for a GPU
Floor 2     classification  ensembles of classifiers, all trained at once by Adam
            training      gradient descent of networks with two-layer blocks, many at once
            correlated    mean squares of wide networks with weights that are correlated over depth
            diagnosis     what was measured in a given network: regime, findings, advice, table, plot
Floor 3     mean_ode      the Mean ODE of training: quasi-random particles, an error bar; exact for linear blocks
            sweeps        grids of experiments that resume when interrupted
            diagnose      measures any torch module that has residual blocks
Floor 4     lazy          its lazy limit, a kernel equation without particles

A module imports from the floors below its own, never sideways or up.
"""

__version__ = "0.1.0"
