"""Score every generated image, and save the score with it.

This is an always-visible script, so it combines with every other script. Importing it installs and loads
nothing.
"""

# Imported at the top: after loading, the host removes the extension's folder from sys.path.
from image_reward_webui.gallery import arrange, scores_line
from image_reward_webui.model_holder import HOLDER, NOT_INSTALLED, megabytes, model_names
from image_reward_webui.prompts import plain_prompt
from image_reward_webui.run import Run, ScoredImage
from image_reward_webui.settings import DEFAULT_MODEL, read_settings
from modules import devices, images, scripts, shared

TITLE = "ImageReward - generate human preference scores"
# Scripts that accept any number of images from each generation. The others (X/Y/Z plot, prompt matrix, SD
# upscale, loopback, ...) need every image.
KEEPS_ANY_NUMBER = ("prompts_from_file.py",)


class Script(scripts.Script):
    def title(self):
        return TITLE

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        import gradio as gr  # not needed to score

        names = model_names()
        with gr.Accordion(TITLE, open=False, elem_id=self.elem_id("accordion")):
            if not names:
                gr.Markdown(f"**Not ready:** {NOT_INSTALLED}.")
            with gr.Row():
                enabled = gr.Checkbox(False, label="Enable", elem_id=self.elem_id("enable"))
                model = gr.Dropdown(
                    names or [DEFAULT_MODEL],
                    value=DEFAULT_MODEL,
                    allow_custom_value=True,
                    label="Reward model (a name, or the path of a saved folder or file)",
                    elem_id=self.elem_id("model"),
                )
            with gr.Row():
                filter_low = gr.Checkbox(
                    False, label="Filter out images with low scores", elem_id=self.elem_id("filter")
                )
                limit = gr.Number(0, label="Lower score limit", elem_id=self.elem_id("limit"))
                sort = gr.Checkbox(False, label="Sort by score, best first", elem_id=self.elem_id("sort"))
            gr.Markdown(
                "Scores of ImageReward-v1.0 are about N(0, 1) over generated pictures: 0 is average, about"
                " one in six is above 1. The model is loaded on the first run (one download of 1.79 GB, about"
                " 1,790 MB of memory) and stays in memory until you unload it."
            )
            with gr.Row():
                unload = gr.Button("Unload Model From Memory", elem_id=self.elem_id("unload"))
                status = gr.Markdown(_status, elem_id=self.elem_id("status"))
            unload.click(_unload, inputs=[], outputs=[status], show_progress=False)
        return [enabled, model, filter_low, limit, sort]

    def process(self, p, *args):
        settings = read_settings(*args)
        p.image_reward_run = Run(settings) if settings.enabled else None
        if settings.enabled:
            p.image_reward_run.show_in_infotexts(p.extra_generation_params, _forge_module_keys())
            if settings.problem:
                p.image_reward_run.note(f"ImageReward: {settings.problem}")

    def postprocess_image_after_composite(self, p, pp, *args):
        # Unlike postprocess_image, this runs after an inpainted part is back in its image, before saving.
        run = getattr(p, "image_reward_run", None)
        if run is None or run.failed:
            return
        prompt = plain_prompt(p.prompts[p.batch_index], p.steps)
        try:
            with devices.without_autocast():
                score = HOLDER.score(run.settings.model, prompt, pp.image, devices.get_optimal_device())
        except Exception as error:  # a failure to score must not lose the images
            run.failed = True
            run.note(f"ImageReward: cannot score: {str(error) or type(error).__name__}")
            return
        run.images[p.iteration, p.batch_index] = ScoredImage(pp.image, score)
        # Again, because sampling may have added keys: the score must stay the last one.
        run.show_in_infotexts(p.extra_generation_params, _forge_module_keys())
        if not prompt:
            run.note("ImageReward: the prompt is empty, so the score rates the picture alone")
        elif dropped := HOLDER.model.tokenizer.dropped_words(prompt):
            run.note(f"ImageReward: the prompt is too long; not read: {dropped}")

    def postprocess(self, p, processed, *args):
        run = getattr(p, "image_reward_run", None)
        if run is None:
            return
        p.image_reward_run = None
        run.hide_from_infotexts(p.extra_generation_params, _forge_module_keys())
        if run.images and (run.settings.filter_low or run.settings.sort):
            if _may_rearrange(p):
                arrange(processed, run, lambda images: _grid(images, p.batch_size))
            else:
                run.note("ImageReward: not filtered or sorted: the selected script needs every picture")
        if scores := scores_line(processed, run):
            run.note(f"ImageReward Score: {scores}{_percentile_of_best(run)}")
        for line in run.notes:
            print(line)
        if run.images and not processed.images:
            print(f"ImageReward: {processed.info}")  # the page shows it in the place of the parameters
        processed.comments = getattr(processed, "comments", "") + "".join(f"{line}\n" for line in run.notes)


def _may_rearrange(p):
    """Return False if the script selected in the dropdown needs every image."""
    selected = p.script_args[0] if p.script_args else 0
    if not isinstance(selected, int) or selected == 0 or p.scripts is None:
        return True
    script = p.scripts.selectable_scripts[selected - 1]
    return str(script.filename).endswith(KEEPS_ANY_NUMBER)


def _grid(scored_images, batch_size):
    if len(scored_images) < 2 and shared.opts.grid_only_if_multiple:
        return None
    return images.image_grid(scored_images, batch_size)


def _forge_module_keys():
    """Return the keys that Forge adds for selected extra modules."""
    modules = getattr(shared.opts, "forge_additional_modules", None) or []
    return [f"Module {i}" for i in range(1, len(modules) + 1)]


def _percentile_of_best(run):
    """Return the percentile of the best score as text, if the model has any."""
    best = max(image.score for image in run.images.values())
    percentile = HOLDER.model.percentile(best) if HOLDER.model is not None else None
    if percentile is None:
        return ""
    source = HOLDER.model.config.score_quantiles.source
    return f" (best of this run: {best:.4f}, percentile {percentile:.0f}, {source})"


def _status():
    if HOLDER.model is None:
        return "No reward model in memory."
    return f"{HOLDER.name}: {megabytes(HOLDER.model):,.1f} MB in memory."


def _unload():
    name, freed = HOLDER.name, HOLDER.unload()
    return f"{name} unloaded: {freed:,.1f} MB freed." if name else "No reward model in memory."
