"""What `ptsne --help` and the help of each command say."""

PTSNE = """\
Parametric t-SNE: learn a map of your rows as a network, and place new rows on
it with the same network.

A session, from a table of rows to a picture, new rows and a server:

  ptsne fit train.csv --id sample --label kind --out map/
  ptsne plot map/ --out map.png
  ptsne transform map/ new.csv --id sample --out new_map.csv
  ptsne evaluate map/ --train train.csv --test test.csv --label kind
  ptsne export map/ --out saved_models/mine

To see it at work without rows of your own:  ptsne demo
"""

PTSNE_END = """\
rows, the input
  .npy           an array [N, D]; mapped, not loaded
  .npz           a SciPy sparse matrix, or arrays: --array names the rows, the
                 others can be --id and --label
  .csv .tsv .txt a table, with a header or without, also .gz; read by blocks
  .parquet       read by row groups (pip install 'ptsne_keras[parquet]')
  .h5ad          AnnData: X, --layer or --obsm; columns of obs can be --label
                 (pip install 'ptsne_keras[anndata]')
  Columns without names are 1, 2, 3, ... Names and labels of the rows may also
  be a .npy or .txt file of their own. A model fitted on named columns finds
  them by name in other files, in whatever order.

maps, the output
  .csv           id, label, x, y: as many of them as there are
  .npy           an array [N, d]
  .parquet       columns as in .csv
  Files are written beside and renamed: they are whole or not there.

for machines
  --json         one JSON object on stdout and nothing else; what went wrong is
                 {"error": "..."} there
  --quiet        no progress

exit codes
  0    done
  1    the work failed: a full disk, a package that is not installed
  2    wrong usage or input; the message says what to mend
  130  interrupted by Ctrl-C; a fit that was training is saved, and goes on by
       ptsne fit ROWS --out MODEL --resume

environment
  PTSNE_DEBUG=1  show the traceback of an error
"""

FIT = """\
Learn the map of rows: a network, and the places of the rows themselves.

The folder --out gets the model, and in it map.csv, the map of the rows.
Ctrl-C ends training after the step at hand and saves what there is: the model
works, and --resume goes on from there. A second Ctrl-C ends at once. Before
fine-tuning, in the pretraining of RBMs too, there is nothing to keep yet.

With --map the map is one that you have, from whatever program, and the
network learns to place rows on it.
"""

FIT_END = """\
examples
  ptsne fit rows.npy --out map/
  ptsne fit train.csv --id sample --label kind --drop batch,date --out map/
  ptsne fit cells.h5ad --obsm X_pca --label cell_type --out map/
  ptsne fit train.csv --id sample --map Rtsne.csv --out map/
  ptsne fit rows.npy --out map/ --resume
"""

TRANSFORM = """\
Place rows on the map of a model. Rows are read, placed and written block by
block, so that there may be more of them than memory holds.
"""

TRANSFORM_END = """\
examples
  ptsne transform map/ new.csv --id sample --out new_map.csv
  ptsne transform map/ new.npy --out new_map.npy
  ptsne transform map/ new.parquet --novelty --out new_map.parquet
"""

EVALUATE = """\
Measure how good a map is, on training rows and on test rows, beside PCA: KL
divergence, trustworthiness T(k), continuity, neighbourhood recall, k-NN
accuracy (with --label) and Spearman's correlation of distances.
"""

EVALUATE_END = """\
examples
  ptsne evaluate map/ --train train.csv --test test.csv --label kind
  ptsne evaluate map/ --train train.npy --json
"""

EXPORT = """\
Write the network for a server or another runtime: a TensorFlow SavedModel in
--out/1, /2, ... (the next number), an ONNX file, or a LiteRT file.
"""

EXPORT_END = """\
examples
  ptsne export map/ --out saved_models/mine --reference train.csv
  ptsne export map/ --out mine.onnx --format onnx
  ptsne export map/ --out mine.tflite --format litert
"""

PLOT = """\
Draw a map, or how good it is, as .png, .svg or .pdf, or as a web page with
hover and zoom.

  map      the training rows, or those of --rows, coloured by their labels
  overlay  the training rows faint, those of --test strong
  kl       the loss in training
  shepard  distances on the map against those in the data (wants --rows)
  recall   part of the k nearest that is kept, by k (wants --rows)
  quality  how many of its nearest each row keeps (wants --rows)
"""

PLOT_END = """\
examples
  ptsne plot map/ --out map.png
  ptsne plot map/ --test test.csv --label kind --kind overlay --out map.svg
  ptsne plot new_map.csv --html new_map.html
  ptsne plot map/ --rows train.csv --label kind --kind quality --out q.pdf
"""

DEMO = """\
Fit scikit-learn's digits with the default settings, print how good the map of
the test rows is, draw it, and export it for TensorFlow Serving.
"""
