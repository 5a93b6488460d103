"""`ParametricTSNE.paper()`: the settings of 2009, and each part exchanged."""

import keras
import numpy as np
import pytest
from support.fits import FEW

from ptsne_keras import ParametricTSNE
from ptsne_keras.estimators._settings import resolve


class TestPaper:
    def test_has_the_settings_of_2009(self):
        tsne = ParametricTSNE.paper()
        assert (tsne.hidden_units, tsne.activation) == ((500, 500, 2000), "sigmoid")
        assert (tsne.pretraining, tsne.sampling, tsne.batch_size) == ("cd1", "fixed", 5000)
        assert (tsne.optimizer, tsne.exaggeration, tsne.dof) == ("cg", 1.0, 1.0)
        settings = resolve(tsne.get_params(), 60_000, 784)
        assert (settings.pretraining_epochs, settings.epochs, settings.perplexity) == (30, 30, 30.0)
        assert settings.initial_dims is None
        pcd = tsne.set_params(pretraining="pcd")
        assert resolve(pcd.get_params(), 60_000, 784).pretraining_epochs == 100

    def test_few_rows_get_more_epochs_and_a_lower_perplexity(self):
        settings = resolve(ParametricTSNE.paper().get_params(), 61, 4)
        assert (settings.pretraining_epochs, settings.epochs) == (1300, 120)
        assert settings.perplexity == 20.0

    @pytest.mark.parametrize(
        ("optimizer", "rate", "message"),
        [
            ("cg", 0.1, 'learning_rate should be "auto" unless'),
            (keras.optimizers.SGD(), 0.1, 'learning_rate should be "auto" unless'),
            (
                keras.optimizers.SGD(lambda: 0.05),
                "auto",
                "optimizer should be one that Keras can rebuild",
            ),
        ],
        ids=["rate of cg", "rate of an own optimizer", "callable rate"],
    )
    def test_optimizers_that_cannot_work_are_named(self, optimizer, rate, message, digits):
        tsne = ParametricTSNE.paper(optimizer=optimizer, learning_rate=rate)
        with pytest.raises(ValueError, match=message):
            tsne.fit(digits[0][0])

    def test_weights_that_an_optimizer_should_not_decay_are_kept_from_it(self, digits):
        def learned(*excluded):
            optimizer = keras.optimizers.AdamW(0.01, weight_decay=5.0)
            optimizer.exclude_from_weight_decay(var_names=list(excluded))
            changes = {"dof": "learn", "optimizer": optimizer, "pretraining": None, **FEW}
            return ParametricTSNE.paper(4, random_state=0, **changes).fit(digits[0][0][:300]).dof_

        assert learned("log_dof") > 1.1 * learned()

    def test_a_map_loads_without_the_class_of_its_optimizer(self, digits, tmp_path):
        class Mine(keras.optimizers.SGD):
            pass

        X = digits[0][0][:300]
        tsne = ParametricTSNE.paper(optimizer=Mine(0.01), pretraining=None, **FEW).fit(X)
        tsne.save(tmp_path / "map")
        with pytest.warns(UserWarning, match="'Mine'"):
            loaded = ParametricTSNE.load(tmp_path / "map")
        np.testing.assert_array_equal(loaded.transform(X), tsne.embedding_)
        assert loaded.optimizer == "adam"

    def test_half_precision_is_refused_before_any_work(self, digits):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            with pytest.raises(ValueError, match="should compute in float32"):
                ParametricTSNE.paper().fit(digits[0][0])
        finally:
            keras.config.set_dtype_policy("float32")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            pytest.param({"pretraining": "pcd"}, marks=pytest.mark.slow),
            pytest.param({"pretraining": None}, marks=pytest.mark.slow),
            {"optimizer": "adam"},
            pytest.param({"optimizer": keras.optimizers.Nadam(0.01)}, marks=pytest.mark.slow),
            pytest.param({"dof": "auto", "n_components": 3}, marks=pytest.mark.slow),
            {"dof": "learn", "n_components": 3},
        ],
        ids=["all", "pcd", "no pretraining", "adam", "own optimizer", "auto dof", "learned dof"],
    )
    def test_each_part_can_be_exchanged_alone(self, changes, digits, tmp_path):
        X = digits[0][0][:300]
        tsne = ParametricTSNE.paper(random_state=0, **{**FEW, **changes}).fit(X)
        history = tsne.history_["finetune"]
        assert history["loss"][-1] < history["loss"][0]
        assert ("evaluations" in history) == (tsne.optimizer == "cg")
        assert ("dof" in history) == (tsne.dof == "learn")
        if tsne.dof == "learn":
            assert history["dof"][0] == pytest.approx(2.0)
            assert history["dof"][-1] == tsne.dof_ != pytest.approx(2.0)
        assert len(tsne.history_["pretrain"]) == (0 if tsne.pretraining is None else 3)
        tsne.save(tmp_path / "map")
        loaded = ParametricTSNE.load(tmp_path / "map")
        np.testing.assert_array_equal(loaded.transform(X), tsne.embedding_)
        assert loaded.dof_ == tsne.dof_
        np.testing.assert_array_equal(loaded.fit(X).embedding_, tsne.embedding_)
