"""What `ptsne --help` and the help of each command say: before and after the options."""

HELP = {
    "ptsne": (
        """\
Parametric t-SNE: learn a map of your rows as a network, and place new rows on
it with the same network.

A session, from a table of rows to a picture, new rows and a server:

  ptsne fit train.csv --id sample --label kind --out map/
  ptsne plot map/ --out map.png
  ptsne transform map/ new.csv --id sample --out new_map.csv
  ptsne evaluate map/ --train train.csv --test test.csv --id sample --label kind
  ptsne export map/ --out saved_models/mine

To see it at work without rows of your own:  ptsne demo
""",
        """\
rows, the input
  .npy           an array [N, D]; mapped, not loaded
  .npz           a SciPy sparse matrix, or arrays: --array names the rows, the
                 others can be --id and --label
  .csv .tsv .txt a table, also .gz, read in chunks; what its first rows leave
                 open is said by --header, --delimiter, --decimal, --thousands
  .parquet       or a folder of such files, read in chunks (pip install
                 'ptsne_keras[parquet]'); lists of numbers by --columns NAME
  .h5ad          AnnData: X, --layer or --obsm; columns of obs can be --label
                 (pip install 'ptsne_keras[anndata]')
  Columns without names are called 1, 2, 3, ... Ids and labels may also be a
  .npy or .txt file of their own. A model fitted on named columns finds them by
  name in other files, in any order.

maps, the output
  .csv           id, label, x, y: those of them that there are
  .npy           an array [N, d]
  .parquet       columns as in .csv
  A file is complete or absent: it is written beside its place, then renamed.

for machines
  --json         one JSON object on stdout and nothing else; an error is
                 {"error": "..."} there
  --quiet        no progress

exit codes
  0    done
  1    the work failed: a full disk, a package that is not installed
  2    wrong usage or input; the message says what to change
  130  interrupted by Ctrl-C, SIGTERM or SIGHUP; a fit that was training is
       saved, and goes on by ptsne fit ROWS --out MODEL --resume

environment
  PTSNE_DEBUG=1      show the traceback of an error
  PTSNE_MAX_MB=4000  let a compressed file expand to so many megabytes (256, or
                     50 times its size)
""",
    ),
    "fit": (
        """\
Learn the map of rows: a network, and the places of the rows themselves.

The folder --out receives the model and map.csv, the map of the rows. Ctrl-C
ends training after the current step and saves the model, which works, and
which --resume trains further. A second Ctrl-C ends at once. Before fine-tuning
has begun, in the pretraining of RBMs too, there is nothing to save yet. After
a kill or a power cut --resume goes on from the last checkpoint.

With --map the map is one that you have, from any program. Nothing is trained:
new rows are placed among their neighbours. (With --objective squares a network
is trained on the places.)
""",
        """\
examples
  ptsne fit rows.npy --out map/
  ptsne fit train.csv --id sample --label kind --drop batch,date --out map/
  ptsne fit cells.h5ad --obsm X_pca --label cell_type --out map/
  ptsne fit train.csv --id sample --map Rtsne.csv --out map/
  ptsne fit rows.npy --out map/ --resume
""",
    ),
    "transform": (
        """\
Place rows on the map of a model. Rows are read, placed and written block by
block, so there may be more of them than memory holds.

With --inverse the rows are places, a map in a file with columns x and y, and
the rows that a model fitted with --decoder expects there are written.
""",
        """\
examples
  ptsne transform map/ new.csv --id sample --out new_map.csv
  ptsne transform map/ new.npy --out new_map.npy
  ptsne transform map/ new.parquet --novelty --out new_map.parquet
  ptsne transform map/ places.csv --inverse --out rows.csv
""",
    ),
    "evaluate": (
        """\
Measure the quality of a map on training rows and on test rows, beside PCA: KL
divergence, trustworthiness T(k), continuity, neighbourhood recall, k-NN
accuracy (with --label) and Spearman's correlation of distances.
""",
        """\
examples
  ptsne evaluate map/ --train train.csv --test test.csv --id sample --label kind
  ptsne evaluate map/ --train train.npy --json
""",
    ),
    "export": (
        """\
Write the network for a server or another runtime: a TensorFlow SavedModel in
--out/1, /2, ... (the next number), an ONNX file, or a LiteRT file.
""",
        """\
examples
  ptsne export map/ --out served --reference train.csv --id sample --label kind
  ptsne export map/ --out mine.onnx --format onnx
  ptsne export map/ --out mine.tflite --format litert
""",
    ),
    "plot": (
        """\
Draw a map, or its quality, as .png, .svg or .pdf, or as a web page with hover
and zoom.

  map      the training rows, or those of --rows, coloured by their labels
  overlay  the training rows faint, those of --test strong
  kl       the loss in training
  shepard  distances on the map against those in the data (needs --rows)
  recall   share of the k nearest neighbours kept, by k (needs --rows)
  quality  how many of its neighbours each row keeps (needs --rows)
""",
        """\
examples
  ptsne plot map/ --out map.png
  ptsne plot map/ --test test.csv --id sample --label kind --out o.svg
  ptsne plot new_map.csv --html new_map.html
  ptsne plot map/ --rows train.csv --drop sample,kind --kind quality --out q.pdf
""",
    ),
    "demo": (
        """\
Fit scikit-learn's digits with the default settings, print the quality of the
map, draw it, and export it for TensorFlow Serving.
""",
        None,
    ),
}
