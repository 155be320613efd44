/* Sizes and offsets that programs were compiled with: they change only by appending. */
#include "qwen3moe.h"

#include <assert.h>

#define FIELD(type, field, offset) static_assert(offsetof(type, field) == (offset), #type "." #field)
#define SIZE(type, size) static_assert(sizeof(type) == (size), #type)

static_assert(sizeof(qm_status) == 4, "qm_status");

SIZE(qm_load_progress_t, 32);
FIELD(qm_load_progress_t, struct_size, 0);
FIELD(qm_load_progress_t, fraction, 4);
FIELD(qm_load_progress_t, done_bytes, 8);
FIELD(qm_load_progress_t, total_bytes, 16);
FIELD(qm_load_progress_t, elapsed_us, 24);

SIZE(qm_load_options_t, 120);
FIELD(qm_load_options_t, struct_size, 0);
FIELD(qm_load_options_t, device, 4);
FIELD(qm_load_options_t, vram_budget, 8);
FIELD(qm_load_options_t, ram_budget, 16);
FIELD(qm_load_options_t, kv_tokens, 24);
FIELD(qm_load_options_t, context_length, 32);
FIELD(qm_load_options_t, streams, 36);
FIELD(qm_load_options_t, threads, 40);
FIELD(qm_load_options_t, prefill_chunk, 44);
FIELD(qm_load_options_t, exact, 48);
FIELD(qm_load_options_t, log_level, 52);
FIELD(qm_load_options_t, cache_dir, 56);
FIELD(qm_load_options_t, log, 64);
FIELD(qm_load_options_t, log_user_data, 72);
FIELD(qm_load_options_t, progress, 80);
FIELD(qm_load_options_t, progress_user_data, 88);
FIELD(qm_load_options_t, kv, 96);
FIELD(qm_load_options_t, device_priority, 100);
FIELD(qm_load_options_t, cuda_context, 104);
FIELD(qm_load_options_t, max_step_us, 112);

SIZE(qm_generate_options_t, 72);
FIELD(qm_generate_options_t, struct_size, 0);
FIELD(qm_generate_options_t, max_tokens, 4);
FIELD(qm_generate_options_t, min_tokens, 8);
FIELD(qm_generate_options_t, ignore_eos, 12);
FIELD(qm_generate_options_t, temperature, 16);
FIELD(qm_generate_options_t, top_p, 20);
FIELD(qm_generate_options_t, min_p, 24);
FIELD(qm_generate_options_t, repetition_penalty, 28);
FIELD(qm_generate_options_t, presence_penalty, 32);
FIELD(qm_generate_options_t, frequency_penalty, 36);
FIELD(qm_generate_options_t, top_k, 40);
FIELD(qm_generate_options_t, stop_count, 44);
FIELD(qm_generate_options_t, seed, 48);
FIELD(qm_generate_options_t, deadline_us, 56);
FIELD(qm_generate_options_t, stop, 64);

SIZE(qm_model_info_t, 88);
FIELD(qm_model_info_t, struct_size, 0);
FIELD(qm_model_info_t, family, 4);
FIELD(qm_model_info_t, parameters, 8);
FIELD(qm_model_info_t, kv_tokens, 16);
FIELD(qm_model_info_t, vocab, 24);
FIELD(qm_model_info_t, hidden, 28);
FIELD(qm_model_info_t, layers, 32);
FIELD(qm_model_info_t, attention_layers, 36);
FIELD(qm_model_info_t, delta_layers, 40);
FIELD(qm_model_info_t, moe_layers, 44);
FIELD(qm_model_info_t, experts, 48);
FIELD(qm_model_info_t, experts_per_token, 52);
FIELD(qm_model_info_t, context_length, 56);
FIELD(qm_model_info_t, model_context_length, 60);
FIELD(qm_model_info_t, streams, 64);
FIELD(qm_model_info_t, threads, 68);
FIELD(qm_model_info_t, mtp_layers, 72);
FIELD(qm_model_info_t, has_chat_template, 76);
FIELD(qm_model_info_t, has_tokenizer, 80);
FIELD(qm_model_info_t, eos_id, 84);

SIZE(qm_stream_stats_t, 56);
FIELD(qm_stream_stats_t, struct_size, 0);
FIELD(qm_stream_stats_t, finish, 4);
FIELD(qm_stream_stats_t, prompt_tokens, 8);
FIELD(qm_stream_stats_t, prefilled_tokens, 16);
FIELD(qm_stream_stats_t, generated_tokens, 24);
FIELD(qm_stream_stats_t, queued_us, 32);
FIELD(qm_stream_stats_t, prefill_us, 40);
FIELD(qm_stream_stats_t, decode_us, 48);

SIZE(qm_expert_stats_t, 72);
FIELD(qm_expert_stats_t, struct_size, 0);
FIELD(qm_expert_stats_t, has_experts, 4);
FIELD(qm_expert_stats_t, activations, 8);
FIELD(qm_expert_stats_t, hits, 16);
FIELD(qm_expert_stats_t, misses, 24);
FIELD(qm_expert_stats_t, admissions, 32);
FIELD(qm_expert_stats_t, bytes_moved, 40);
FIELD(qm_expert_stats_t, resident_experts, 48);
FIELD(qm_expert_stats_t, experts, 56);
FIELD(qm_expert_stats_t, hit_rate, 64);

SIZE(qm_memory_stats_t, 152);
FIELD(qm_memory_stats_t, struct_size, 0);
FIELD(qm_memory_stats_t, reserved, 4);
FIELD(qm_memory_stats_t, ram_total, 8);
FIELD(qm_memory_stats_t, ram_embeddings, 16);
FIELD(qm_memory_stats_t, ram_attention, 24);
FIELD(qm_memory_stats_t, ram_delta_net, 32);
FIELD(qm_memory_stats_t, ram_experts, 40);
FIELD(qm_memory_stats_t, ram_other, 48);
FIELD(qm_memory_stats_t, ram_kv, 56);
FIELD(qm_memory_stats_t, ram_states, 64);
FIELD(qm_memory_stats_t, ram_workspace, 72);
FIELD(qm_memory_stats_t, vram_total, 80);
FIELD(qm_memory_stats_t, vram_embeddings, 88);
FIELD(qm_memory_stats_t, vram_attention, 96);
FIELD(qm_memory_stats_t, vram_delta_net, 104);
FIELD(qm_memory_stats_t, vram_experts, 112);
FIELD(qm_memory_stats_t, vram_other, 120);
FIELD(qm_memory_stats_t, vram_kv, 128);
FIELD(qm_memory_stats_t, vram_states, 136);
FIELD(qm_memory_stats_t, vram_workspace, 144);

SIZE(qm_fit_t, 720);
FIELD(qm_fit_t, struct_size, 0);
FIELD(qm_fit_t, fits, 4);
FIELD(qm_fit_t, context_length, 8);
FIELD(qm_fit_t, streams, 12);
FIELD(qm_fit_t, kv_tokens, 16);
FIELD(qm_fit_t, ram_required, 24);
FIELD(qm_fit_t, ram_limit, 32);
FIELD(qm_fit_t, ram_available, 40);
FIELD(qm_fit_t, vram_required, 48);
FIELD(qm_fit_t, vram_limit, 56);
FIELD(qm_fit_t, state_per_stream, 64);
FIELD(qm_fit_t, kv_per_1000_tokens, 72);
FIELD(qm_fit_t, ram_embeddings, 80);
FIELD(qm_fit_t, ram_attention, 88);
FIELD(qm_fit_t, ram_delta_net, 96);
FIELD(qm_fit_t, ram_experts, 104);
FIELD(qm_fit_t, ram_other, 112);
FIELD(qm_fit_t, ram_kv, 120);
FIELD(qm_fit_t, ram_states, 128);
FIELD(qm_fit_t, ram_workspace, 136);
FIELD(qm_fit_t, vram_embeddings, 144);
FIELD(qm_fit_t, vram_attention, 152);
FIELD(qm_fit_t, vram_delta_net, 160);
FIELD(qm_fit_t, vram_experts, 168);
FIELD(qm_fit_t, vram_other, 176);
FIELD(qm_fit_t, vram_kv, 184);
FIELD(qm_fit_t, vram_states, 192);
FIELD(qm_fit_t, vram_workspace, 200);
FIELD(qm_fit_t, advice, 208);

int main(void) { return 0; }
