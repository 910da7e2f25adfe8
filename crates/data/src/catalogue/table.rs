//! The rows of the table: the plan's sixteen data sets, two more that stand in for what is rarely at hand, and the
//! built-in ones.
//!
//! Revisions are commits wherever public records name the commit of that repository; two sets (StrategyQA, CodeXGLUE)
//! are read from `main`, for no commit of theirs could be verified. Counts are the publishers'.

use super::{Dataset, Hub, Source};
use crate::adapters::{choices, code, maths, passages, questions, text};
use crate::mix::Stage;
use crate::record::Family;

const fn hub(
    repository: &'static str,
    configuration: &'static str,
    revision: &'static str,
    under: &'static str,
) -> Hub {
    Hub {
        repository,
        configuration,
        revision,
        under,
        most_files: 0,
    }
}

const fn built_in(id: &'static str, family: Family) -> Dataset {
    Dataset {
        id,
        family,
        hub: &[],
        licence: "made here",
        folders: &[],
        origin: "",
        published: &[],
        stages: &[],
        optional: false,
        read: Source::Builtin,
    }
}

const ARC: &str = "210d026faf9955653af8916fad021475a3f00453";

/// Every data set that can be read, in the order of the reports.
///
/// StrategyQA and CommonsenseQA also stand in, in the advanced stage, for the sets of several hops and of everyday
/// knowledge whose training text is rarely at hand; the prose sets stand in for FineWeb-Edu and OpenWebText.
pub static DATASETS: &[Dataset] = &[
    Dataset {
        id: "gsm8k",
        family: Family::Maths,
        hub: &[hub(
            "openai/gsm8k",
            "main",
            "740312add88f781978c0658806c59bc2815b9866",
            "main/",
        )],
        licence: "MIT",
        folders: &["gsm8k"],
        origin: "train.jsonl and test.jsonl of openai/grade-school-math",
        published: &[("train", 7_473), ("test", 1_319)],
        stages: &[Stage::Foundation],
        optional: false,
        read: Source::Files(questions::gsm8k),
    },
    Dataset {
        id: "svamp",
        family: Family::Maths,
        hub: &[hub(
            "ChilleD/SVAMP",
            "default",
            "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
            "",
        )],
        licence: "MIT",
        folders: &["svamp"],
        origin: "SVAMP.json of arkilpatel/SVAMP",
        published: &[("train", 700), ("test", 300)],
        stages: &[Stage::Foundation],
        optional: false,
        read: Source::Files(questions::svamp),
    },
    Dataset {
        id: "asdiv",
        family: Family::Maths,
        // The hub has the arithmetic part ASDiv-A alone, 1,218 problems.
        hub: &[hub(
            "MU-NLPC/Calc-asdiv_a",
            "default",
            "520a6910e097ee287ecd2bb9104f7f45805f9df9",
            "data/",
        )],
        licence: "CC BY-NC 4.0",
        folders: &["asdiv"],
        origin: "ASDiv.xml of chaochun/nlu-asdiv-dataset (all 2,305 problems; the hub has 1,218)",
        published: &[("train", 1_776), ("test", 529)],
        stages: &[Stage::Foundation],
        optional: false,
        read: Source::Files(maths::asdiv),
    },
    Dataset {
        id: "mbpp",
        family: Family::Code,
        hub: &[hub(
            "google-research-datasets/mbpp",
            "full",
            "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
            "full/",
        )],
        licence: "CC BY 4.0",
        folders: &["mbpp"],
        origin: "mbpp.jsonl of google-research/google-research",
        published: &[("train", 374), ("validation", 90), ("test", 500)],
        stages: &[Stage::Foundation],
        optional: false,
        read: Source::Files(questions::mbpp),
    },
    Dataset {
        id: "codexglue",
        family: Family::Code,
        hub: &[
            hub(
                "google/code_x_glue_cc_code_to_code_trans",
                "default",
                "main",
                "",
            ),
            hub("google/code_x_glue_tc_text_to_code", "default", "main", ""),
        ],
        licence: "C-UDA",
        folders: &["codexglue"],
        origin: "code-to-code-trans/ and text-to-code/concode/ of microsoft/CodeXGLUE",
        // Java to C# 10,300 / 500 / 1,000; CONCODE 100,000 / 2,000, whose test programs are not public.
        published: &[("train", 110_300), ("valid", 2_500), ("test", 1_000)],
        stages: &[Stage::Advanced],
        optional: false,
        read: Source::Files(code::codexglue),
    },
    Dataset {
        id: "arc_easy",
        family: Family::Qa,
        hub: &[hub("allenai/ai2_arc", "ARC-Easy", ARC, "ARC-Easy/")],
        licence: "CC BY-SA 4.0",
        folders: &["arc_easy"],
        origin: "train.jsonl, dev.jsonl and test.jsonl of AI2's ARC-V1",
        published: &[("train", 2_251), ("dev", 570), ("test", 2_376)],
        stages: &[Stage::Reasoning],
        optional: false,
        read: Source::Files(questions::arc),
    },
    Dataset {
        id: "arc_challenge",
        family: Family::Qa,
        hub: &[hub(
            "allenai/ai2_arc",
            "ARC-Challenge",
            ARC,
            "ARC-Challenge/",
        )],
        licence: "CC BY-SA 4.0",
        folders: &["arc_challenge"],
        origin: "train.jsonl, dev.jsonl and test.jsonl of AI2's ARC-V1",
        published: &[("train", 1_119), ("dev", 299), ("test", 1_172)],
        stages: &[Stage::Reasoning],
        optional: false,
        read: Source::Files(questions::arc),
    },
    Dataset {
        id: "hotpotqa",
        family: Family::Qa,
        hub: &[hub(
            "hotpotqa/hotpot_qa",
            "distractor",
            "1908d6afbbead072334abe2965f91bd2709910ab",
            "distractor/",
        )],
        licence: "CC BY-SA 4.0",
        folders: &["hotpotqa"],
        origin: "hotpot_train_v1.1.json and hotpot_dev_distractor_v1.json of hotpotqa.github.io",
        published: &[("train", 90_447), ("dev", 7_405)],
        stages: &[Stage::Advanced],
        optional: false,
        read: Source::Files(passages::hotpotqa),
    },
    Dataset {
        id: "drop",
        family: Family::Qa,
        hub: &[hub(
            "ucinlp/drop",
            "default",
            "95cda593fae71b60b5b19f82de3fcf3298c1239c",
            "data/",
        )],
        licence: "CC BY-SA 4.0",
        folders: &["drop"],
        origin: "drop_dataset_train.json and drop_dataset_dev.json of AI2's DROP (the hub lacks 9 and 1 of their questions)",
        published: &[("train", 77_409), ("dev", 9_536)],
        stages: &[Stage::Advanced],
        optional: false,
        read: Source::Files(passages::drop),
    },
    Dataset {
        id: "strategyqa",
        family: Family::Qa,
        hub: &[hub("ChilleD/StrategyQA", "default", "main", "")],
        licence: "MIT",
        folders: &["strategyqa"],
        origin: "train.json and dev.json of eladsegal/strategyqa",
        published: &[("train", 2_061), ("dev", 229)],
        stages: &[Stage::Reasoning, Stage::Advanced],
        optional: false,
        read: Source::Files(questions::strategyqa),
    },
    Dataset {
        id: "piqa",
        family: Family::Commonsense,
        // The authors' own repository holds a script only; this is the copy that lm-evaluation-harness reads.
        hub: &[hub(
            "baber/piqa",
            "default",
            "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1",
            "",
        )],
        licence: "AFL 3.0",
        folders: &["piqa"],
        origin: "train.jsonl, train-labels.lst, valid.jsonl and valid-labels.lst of ybisk.github.io/piqa",
        published: &[("train", 16_113), ("valid", 1_838)],
        stages: &[Stage::Reasoning],
        optional: false,
        read: Source::Files(choices::piqa),
    },
    Dataset {
        id: "hellaswag",
        family: Family::Commonsense,
        hub: &[hub(
            "Rowan/hellaswag",
            "default",
            "218ec52e09a7e7462a5400043bb9a69a41d06b76",
            "data/",
        )],
        licence: "MIT",
        folders: &["hellaswag"],
        origin: "hellaswag_train.jsonl and hellaswag_val.jsonl of rowanz/hellaswag",
        published: &[("train", 39_905), ("val", 10_042)],
        stages: &[Stage::Advanced],
        optional: false,
        read: Source::Files(choices::hellaswag),
    },
    Dataset {
        id: "boolq",
        family: Family::Commonsense,
        hub: &[hub(
            "google/boolq",
            "default",
            "35b264d03638db9f4ce671b711558bf7ff0f80d5",
            "data/",
        )],
        licence: "CC BY-SA 3.0",
        folders: &["boolq"],
        origin: "train.jsonl and dev.jsonl of google-research-datasets/boolean-questions",
        published: &[("train", 9_427), ("dev", 3_270)],
        stages: &[Stage::Reasoning],
        optional: false,
        read: Source::Files(choices::boolq),
    },
    Dataset {
        id: "commonsenseqa",
        family: Family::Commonsense,
        hub: &[hub(
            "tau/commonsense_qa",
            "default",
            "94630fe30dad47192a8546eb75f094926d47e155",
            "data/",
        )],
        licence: "MIT",
        folders: &["extra_reasoning/CommonsenseQA", "commonsenseqa"],
        origin: "train_rand_split.jsonl and dev_rand_split.jsonl of CommonsenseQA",
        published: &[("train", 9_741), ("dev", 1_221)],
        stages: &[Stage::Reasoning, Stage::Advanced],
        optional: false,
        read: Source::Files(questions::commonsenseqa),
    },
    Dataset {
        id: "wikitext",
        family: Family::Language,
        hub: &[hub(
            "Salesforce/wikitext",
            "wikitext-2-v1",
            "b08601e04326c79dfdd32d625aee71d232d685c3",
            "wikitext-2-v1/",
        )],
        licence: "CC BY-SA 3.0",
        folders: &["wikitext2"],
        origin: "wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens of WikiText-2",
        // Articles.
        published: &[("train", 600), ("valid", 60), ("test", 60)],
        stages: &[Stage::Foundation, Stage::Reasoning],
        optional: false,
        read: Source::Files(text::wikitext),
    },
    Dataset {
        id: "fineweb_edu",
        family: Family::Language,
        // One of the fourteen files of the sample of 10 billion tokens: 0.7 million documents, 2 GB.
        hub: &[Hub {
            most_files: 1,
            ..hub(
                "HuggingFaceFW/fineweb-edu",
                "sample-10BT",
                "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
                "sample/10BT/",
            )
        }],
        licence: "ODC-By 1.0",
        folders: &["fineweb_edu", "fineweb_edu_sample"],
        origin: "",
        published: &[("all", 9_672_101)],
        stages: &[Stage::Advanced],
        optional: false,
        read: Source::Files(text::web),
    },
    Dataset {
        id: "openwebtext",
        family: Family::Language,
        // One of eighty files.
        hub: &[Hub {
            most_files: 1,
            ..hub(
                "Skylion007/openwebtext",
                "plain_text",
                "b4325f019c648b1641a1784748667e8b74e5e064",
                "plain_text/",
            )
        }],
        licence: "CC0 1.0",
        folders: &["openwebtext"],
        origin: "",
        published: &[("all", 8_013_769)],
        stages: &[Stage::Advanced],
        optional: true,
        read: Source::Files(text::web),
    },
    Dataset {
        id: "prose",
        family: Family::Language,
        hub: &[],
        licence: "CC BY 3.0, public domain",
        folders: &[
            "prose_openstax",
            "prose_web_usgov",
            "prose_classics",
            "prose_classics_more",
        ],
        origin: "JSON lines with id, title and text",
        published: &[],
        stages: &[Stage::Foundation, Stage::Advanced],
        optional: false,
        read: Source::Files(text::prose),
    },
    built_in("builtin_maths", Family::Maths),
    built_in("builtin_code", Family::Code),
    built_in("builtin_qa", Family::Qa),
    built_in("builtin_commonsense", Family::Commonsense),
    built_in("builtin_language", Family::Language),
];
