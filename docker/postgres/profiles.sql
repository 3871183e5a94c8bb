-- Profiles for the enrichment job: the exercise's three users and those of the simulator.
-- The same rows as agents/enrichment/samples.py makes for the embedded source.
CREATE TABLE IF NOT EXISTS user_profiles (
    user_id VARCHAR(50) PRIMARY KEY,
    name VARCHAR(100),
    tier VARCHAR(20),
    created_at TIMESTAMP DEFAULT NOW()
);

INSERT INTO user_profiles (user_id, name, tier) VALUES
    ('user1', 'John Doe', 'gold'),
    ('user2', 'Jane Smith', 'silver'),
    ('user3', 'Bob Johnson', 'bronze')
ON CONFLICT DO NOTHING;

INSERT INTO user_profiles (user_id, name, tier)
SELECT 'user' || i,
       'User ' || i,
       CASE WHEN i % 10 = 0 THEN 'gold' WHEN i % 10 < 3 THEN 'silver' ELSE 'bronze' END
FROM generate_series(0, 9999) AS i
WHERE i % 12 <> 11
ON CONFLICT DO NOTHING;
