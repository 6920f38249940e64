rule pair:
    input:
        lambda w: [PAIRS[w.pair][side] for side in ("he", "ihc") if "://" not in PAIRS[w.pair][side]],
    output:
        touch("batch/pairs/{pair}.done"),
    log:
        "batch/logs/pairs.{pair}.log",
    conda:
        "../envs/wsistain.yaml"
    threads: 1
    resources:
        **CALL,
        mem_mb=config["mem_mb"],
        runtime=config["runtime_minutes"],
    params:
        he=lambda w: PAIRS[w.pair]["he"],
        ihc=lambda w: PAIRS[w.pair]["ihc"],
        marker=lambda w: PAIRS[w.pair]["marker"],
        name=lambda w: PAIRS[w.pair]["slide"],
        options=pair_options,
    shell:
        "{resources.known_markers}wsistain pair {params.he:q} {params.ihc:q} --marker {params.marker:q} --name {params.name:q}"
        " {params.options:q} --output pairs --overwrite > {log:q} 2>&1"
